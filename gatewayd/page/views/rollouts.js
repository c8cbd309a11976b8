// Rollouts, newest first.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { get } from "../api.js";
import { cascadeLink, empty, heading, rolloutState, shares, table, when } from "../parts.js";
import { count, spoken } from "../words.js";

const COLUMNS = ["Rollout", "Model", "State", "Nodes", "Group", "Since"];

export class RolloutsView {
  title = "Rollouts";
  #rollouts = null;

  get ready() {
    return this.#rollouts !== null;
  }

  async load(signal) {
    this.#rollouts = await get("/rollouts", {}, signal);
  }

  live(name, data) {
    if (name !== "rollout" || !this.#rollouts) return;
    const known = this.#rollouts.some(({ id }) => id === data.id);
    this.#rollouts = known ? this.#rollouts.map((row) => (row.id === data.id ? data : row)) : [data, ...this.#rollouts];
  }

  render() {
    if (!this.#rollouts) return heading("Rollouts");
    return html`${heading("Rollouts")}
      <section class="card" aria-label="Rollouts">
        ${this.#rollouts.length ? table("Rollouts, newest first", COLUMNS, this.#rollouts.map(row))
          : html`${empty("No rollout yet", "A signed bundle of a better model starts one, on the gateway:")}
            <pre><code>gatewayctl rollout start wakeword.bundle</code></pre>`}
      </section>`;
  }
}

const row = (rollout) => html`<tr>
  <th scope="row"><a href="#/rollouts/${encodeURIComponent(rollout.id)}">${rollout.id}</a></th>
  <td data-name="Model">${cascadeLink(rollout.cascade)} ${rollout.version}</td>
  <td data-name="State">${rolloutState(rollout)}${rollout.cause ? html`<span class="cause soft"><bdi>${rollout.cause}</bdi></span>` : nothing}</td>
  <td data-name="Nodes" class="wide">${shares(Object.entries(rollout.counts).map(([state, n]) => [`u-${state}`, n, spoken(state)]), "Nodes")}</td>
  <td data-name="Group" class="number">${rollout.closed ? "–" : `${rollout.group + 1} of ${count(rollout.groups.length)}`}</td>
  <td data-name="Since">${when(rollout.since_s)}</td>
</tr>`;
