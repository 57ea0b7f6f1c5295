// The list of received messages: what is on the page, and a copy of the newest
// ones in localStorage, because an acknowledged message is not sent again and
// the user expects to find it after closing the tab.

const KEPT = 200;          // messages on the page and in the copy
const COPY = 1_000_000;    // characters of the copy; browsers give an origin about 5 million
const WHY = { expired: 'expired before being delivered' };

export class Messages {
  #key;
  #entries = []; // in order of arrival: {epoch, seq, time, type, message} or {epoch, gap: 'from-to', words, reason}
  #epoch = null;
  #last = 0;     // highest seq taken in #epoch: every seq up to here is a repetition

  constructor(list, empty) {
    this.list = list;
    this.empty = empty;
  }

  /** Shows the copy of this user's messages. */
  open(userId) {
    this.close();
    this.#key = 'restante.messages.' + userId;
    this.#entries = this.#read();
    for (const entry of this.#entries) {
      if (entry.epoch !== this.#epoch) [this.#epoch, this.#last] = [entry.epoch, 0];
      this.#last = Math.max(this.#last, entry.seq ?? entry.to);
    }
    this.list.ariaLive = 'off'; // what was there before is not news
    this.list.replaceChildren(...this.#entries.map((entry) => row(entry)));
    this.#show();
  }

  /** Empties the page; the copy stays. */
  close() {
    [this.#key, this.#entries, this.#epoch, this.#last] = [null, [], null, 0];
    this.list.replaceChildren();
    this.#show();
  }

  /** Forgets the copy too: somebody signs out, perhaps of a shared machine. */
  forget() {
    if (this.#key) localStorage.removeItem(this.#key);
    this.close();
  }

  /** A connection begins: is what follows the continuation of what is here? */
  hello({ epoch, acked }) {
    const entries = [];
    if (this.#epoch !== null && this.#epoch !== epoch) {
      // Sequence numbers of another log mean nothing here.
      entries.push({ epoch, from: 0, to: 0, reason: 'epoch',
        words: 'The gateway’s log was restored or replaced. Numbers begin again; some messages may be missing.' });
      this.#last = acked;
    } else if (this.#last > 0 && acked > this.#last) {
      entries.push({ epoch, from: this.#last + 1, to: acked, reason: 'elsewhere',
        words: `${range(this.#last + 1, acked)} went to another of your devices, or expired.` });
    }
    this.#epoch = epoch;
    this.#last = Math.max(this.#last, acked);
    this.#keep(entries);
  }

  /**
   * Keeps frames of one connection, in order, and returns the messages that
   * are new. When it returns they are on the page and in the copy.
   */
  take(frames) {
    const entries = [];
    for (const frame of frames) {
      const to = frame.kind === 'gap' ? frame.to : frame.seq;
      if (to <= this.#last) continue; // repeated after a reconnect
      if (frame.kind === 'gap') {
        entries.push({ epoch: this.#epoch, from: frame.from, to, reason: frame.reason,
          words: `${range(frame.from, to)} ${WHY[frame.reason] ?? 'will not arrive: ' + frame.reason}.` });
      } else {
        if (frame.seq > this.#last + 1) {
          entries.push({ epoch: this.#epoch, from: this.#last + 1, to: frame.seq - 1, reason: 'unannounced',
            words: `${range(this.#last + 1, frame.seq - 1)} did not arrive, and the gateway did not say why.` });
        }
        const { seq, time, type, message, traceparent } = frame;
        entries.push({ epoch: this.#epoch, seq, time, type, message, traceparent });
      }
      this.#last = to;
    }
    this.#keep(entries);
    return entries.filter((entry) => entry.seq);
  }

  #keep(entries) {
    if (entries.length === 0) return;
    this.list.ariaLive = 'polite';
    const atEnd = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 40;
    this.list.append(...entries.map((entry) => row(entry, true)));
    while (this.list.childElementCount > KEPT) this.list.firstElementChild.remove();
    this.#show();
    if (atEnd) this.list.scrollTop = this.list.scrollHeight;
    this.#entries = [...this.#entries, ...entries].slice(-KEPT);
    this.#write();
  }

  #show() {
    this.empty.hidden = this.list.childElementCount > 0;
    // It scrolls, and whoever has no mouse must be able to scroll it too.
    this.list.tabIndex = this.empty.hidden ? 0 : -1;
  }

  #read() {
    try {
      return JSON.parse(localStorage.getItem(this.#key)) ?? [];
    } catch {
      return [];
    }
  }

  /** Writes as many of the newest as fit: large messages crowd old ones out. */
  #write() {
    const texts = this.#entries.map((entry) => JSON.stringify(entry));
    for (let limit = COPY; limit > 1000; limit /= 4) {
      let first = texts.length;
      for (let size = 0; first > 0 && (size += texts[first - 1].length + 1) < limit; ) first--;
      try {
        localStorage.setItem(this.#key, '[' + texts.slice(first).join(',') + ']');
        return;
      } catch { /* the quota is smaller than we hoped: keep fewer */ }
    }
  }
}

const range = (from, to) => (from === to ? `Message ${from}` : `Messages ${from} to ${to}`);

function row(entry, isNew = false) {
  const li = document.createElement('li');
  if (!entry.seq) {
    li.className = 'gap';
    li.dataset.gap = `${entry.from}-${entry.to}`;
    li.dataset.reason = entry.reason;
    li.textContent = entry.words;
    return li;
  }
  li.dataset.seq = entry.seq;
  li.dataset.epoch = entry.epoch;
  if (isNew) li.className = 'new';
  const meta = span('meta', '');
  meta.append(timeOf(entry.time));
  if (entry.type) {
    li.dataset.type = entry.type;
    meta.append(span('type', entry.type));
  }
  // A message is any JSON value; a string is shown as what it says.
  const text = typeof entry.message === 'string'
    ? span('text', entry.message)
    : span('text json', JSON.stringify(entry.message, null, 2));
  li.append(span('seq', '#' + entry.seq), text, meta);
  return li;
}

function span(className, text) {
  const element = document.createElement('span');
  element.className = className;
  element.textContent = text;
  return element;
}

function timeOf(iso) {
  const element = document.createElement('time');
  const date = new Date(iso);
  element.dateTime = iso;
  element.title = date.toLocaleString();
  element.textContent = date.toLocaleTimeString();
  return element;
}
