// Logging in: a token becomes a session.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { logIn, Refused } from "../api.js";

export class LoginView {
  title = "Log in";
  ready = true;
  #page;
  #why;
  #busy = false;

  constructor(page, why) {
    this.#page = page;
    this.#why = why;
  }

  async #submit(event) {
    event.preventDefault();
    const token = new FormData(event.target).get("token").trim();
    this.#busy = true;
    this.#page.update();
    try {
      await logIn(token);
      event.target.reset();
      await this.#page.enter();
    } catch (error) {
      this.#why = error instanceof Refused && [401, 403, 422].includes(error.status) ? "The gateway does not know this token." : error.message;
      document.querySelector("#token").focus();
    }
    this.#busy = false;
    this.#page.update();
  }

  render() {
    return html`<section class="login">
      <h1 tabindex="-1">Log in</h1>
      <p>This gateway shows its fleet to those who have a token.</p>
      ${this.#why ? html`<p class="notice trouble" role="alert">${this.#why}</p>` : nothing}
      <form @submit=${(event) => this.#submit(event)}>
        <label class="field" for="token">Token
          <input id="token" name="token" type="password" required minlength="8" maxlength="128" autocomplete="current-password" spellcheck="false" />
        </label>
        <button class="primary" ?disabled=${this.#busy}>Log in</button>
      </form>
      <p class="hint">A new one is made on the gateway: <code>gatewayctl token add NAME --scope read</code></p>
    </section>`;
  }
}
