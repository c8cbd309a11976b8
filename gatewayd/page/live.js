// The gateway's live stream: reconnects for ever, and says how the connection is.

import { address } from "./api.js";

const NAMES = ["hello", "node", "event", "rollout", "lagged"];
const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 30_000;

/** Follow the stream. `lost` is called when it breaks, and again each time it does not come back.
 * @param {{ message: (name: string, data: any) => void, lost: () => void }} on
 * @returns {() => void} ends it
 */
export function follow(on) {
  let wait = FIRST_WAIT_MS;
  /** @type {EventSource} */
  let source;
  let timer = 0;

  function open() {
    source = new EventSource(address("/stream"));
    for (const name of NAMES) {
      source.addEventListener(name, (message) => {
        wait = FIRST_WAIT_MS;
        on.message(name, JSON.parse(message.data));
      });
    }
    source.onerror = () => {
      // Browsers try again themselves, but not after an answer that is no stream, and Firefox not after every broken one.
      source.close();
      timer = setTimeout(open, wait);
      wait = Math.min(2 * wait, LONGEST_WAIT_MS);
      on.lost();
    };
  }

  open();
  return () => {
    clearTimeout(timer);
    source.close();
  };
}
