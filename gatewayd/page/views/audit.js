// What was changed, by whom, and from where.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { get } from "../api.js";
import { empty, heading, table, when } from "../parts.js";

const PAGE = 100;

export class AuditView {
  title = "Audit";
  #page;
  #before;
  #entries = null;

  constructor(page, _, { before = "" }) {
    this.#page = page;
    this.#before = before;
  }

  get ready() {
    return this.#entries !== null;
  }

  async load(signal) {
    this.#entries = await get("/audit", { before: this.#before, limit: PAGE }, signal);
  }

  #look(before) {
    this.#before = before;
    this.#page.keep({ before });
    this.#page.reload();
  }

  render() {
    if (!this.#entries) return heading("Audit");
    return html`${heading("Audit")}
      <section class="card" aria-label="Changes">
        ${this.#entries.length ? table("Changes, newest first", ["When", "Who", "What", "To what", "How", "From"], this.#entries.map(row)) : empty("Nothing was changed", "Changes by the page, the API and gatewayctl are kept here.")}
        <nav class="pager" aria-label="Pages of changes">
          ${this.#before ? html`<button @click=${() => this.#look("")}>Newest</button>` : nothing}
          <button ?disabled=${this.#entries.length < PAGE} @click=${() => this.#look(String(this.#entries.at(-1).id))}>Older</button>
        </nav>
      </section>`;
  }
}

const row = (entry) => html`<tr>
  <th scope="row">${when(entry.at_s)}</th><td data-name="Who"><bdi>${entry.who}</bdi></td><td data-name="What"><code>${entry.what}</code></td>
  <td data-name="To what"><bdi>${entry.target}</bdi></td><td data-name="How" class="words"><bdi>${entry.detail}</bdi></td><td data-name="From">${entry.address}</td>
</tr>`;
