// Asks before something is changed: a modal <dialog>, which the browser makes usable by keyboard and screen reader.

import { html, nothing, render } from "./vendor/lit-html/lit-html.js";

/** @typedef {object} Ask
 * @property {string} title
 * @property {string} text what will happen
 * @property {string} confirm the word on the button
 * @property {boolean} [danger]
 * @property {{ label: string, value?: string, hint?: string, maxlength?: number }} [field] a line of text that goes with it
 * @property {boolean} [only] there is nothing to cancel
 * @property {string} [done] what is said when it is done
 */

/** @param {Ask} ask @returns {Promise<string | null>} the field's text; null: cancelled */
export function askFirst(ask) {
  const dialog = document.createElement("dialog");
  const before = document.activeElement;
  dialog.setAttribute("aria-labelledby", "ask-title");
  render(
    html`<form method="dialog">
      <h2 id="ask-title">${ask.title}</h2>
      <p>${ask.text}</p>
      ${ask.field ? field(ask.field) : nothing}
      <div class="buttons">
        ${ask.only ? nothing : html`<button type="button" @click=${() => dialog.close()}>Cancel</button>`}
        <button value="yes" class=${ask.danger ? "danger" : "primary"}>${ask.confirm}</button>
      </div>
    </form>`,
    dialog,
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "yes" ? (dialog.querySelector("input")?.value ?? "") : null);
      dialog.remove();
      if (before instanceof HTMLElement && before.isConnected) before.focus();
      else document.querySelector("h1")?.focus();
    });
  });
}

function field({ label, value = "", hint, maxlength = 200 }) {
  return html`<label class="field">${label}<input autofocus maxlength=${maxlength} .value=${value} aria-describedby="ask-hint" /></label>
    <p class="hint" id="ask-hint">${hint}</p>`;
}
