// The tasks this browser has started, with their progress. A task is matched
// with its result by the trace id: the page sends a W3C traceparent with the
// request, the application passes it to the gateway, the gateway to the client.

const KEPT = 20;
const LATE = 5000; // ms after which a missing result is called overdue

export class Tasks {
  #key = null;
  #connected = false;
  #tasks = []; // {id, trace, text, started, due, done: seq of the result | null}

  constructor(list) {
    this.list = list;
    setInterval(() => this.#tick(), 500);
  }

  open(userId) {
    this.#key = 'restante.tasks.' + userId;
    try {
      this.#tasks = JSON.parse(localStorage.getItem(this.#key)) ?? [];
    } catch {
      this.#tasks = [];
    }
    this.#render();
  }

  close() {
    [this.#key, this.#tasks] = [null, []];
    this.#render();
  }

  forget() {
    if (this.#key) localStorage.removeItem(this.#key);
    this.close();
  }

  set connected(connected) {
    this.#connected = connected;
    this.#tick();
  }

  /** Starts a task; throws an Error with words for the user. */
  async start(session, text, wait) {
    const trace = hex(16);
    let response;
    try {
      response = await fetch('process', {
        method: 'POST', credentials: 'omit', signal: AbortSignal.timeout(15000),
        headers: {
          Authorization: 'Bearer ' + session.idToken, 'Content-Type': 'application/json',
          Traceparent: `00-${trace}-${hex(8)}-01`,
        },
        body: JSON.stringify({ message: text, wait }),
      });
    } catch {
      throw new Error('The sample application cannot be reached. Is it still running?');
    }
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(answer.detail ?? `The sample application answered ${response.status}.`);
    const now = Date.now();
    // The browser's own clock: the application's may differ.
    this.#tasks.unshift({ id: answer.taskId, trace, text, started: now, due: now + answer.wait * 1000, done: null });
    this.#tasks.length = Math.min(this.#tasks.length, KEPT);
    this.#save();
    this.#render();
  }

  /** A message has arrived: is it a result that is waited for? */
  received({ seq, type, message, traceparent }) {
    if (type !== 'sample.result') return;
    const waiting = this.#tasks.filter((task) => task.done === null);
    const task = traceparent
      ? waiting.find((task) => task.trace === traceparent.split('-')[1])
      : waiting.findLast((task) => task.text === message); // the oldest with these words
    if (!task) return;
    task.done = seq;
    this.#save();
    this.#render();
  }

  #save() {
    if (this.#key) localStorage.setItem(this.#key, JSON.stringify(this.#tasks));
  }

  #render() {
    this.list.replaceChildren(...this.#tasks.map((task) => {
      const li = document.createElement('li');
      li.dataset.task = task.id;
      const text = document.createElement('span');
      text.className = 'text';
      text.textContent = task.text;
      const status = document.createElement('span');
      status.className = 'status';
      const remove = document.createElement('button');
      remove.type = 'button';
      remove.className = 'small';
      remove.textContent = '×';
      remove.setAttribute('aria-label', `Remove “${task.text}” from this list`);
      remove.addEventListener('click', () => {
        this.#tasks = this.#tasks.filter((other) => other !== task);
        this.#save();
        this.#render();
      });
      const progress = document.createElement('progress');
      progress.max = 1;
      progress.setAttribute('aria-label', `Progress of “${task.text}”`);
      li.append(text, status, remove, progress);
      return li;
    }));
    this.#tick();
  }

  #tick() {
    this.#tasks.forEach((task, i) => {
      const li = this.list.children[i];
      const left = task.due - Date.now();
      const whole = Math.max(1, task.due - task.started);
      li.dataset.status = task.done !== null ? 'done' : left < -LATE ? 'overdue' : 'running';
      li.querySelector('progress').value = task.done !== null ? 1 : Math.min(0.99, 1 - left / whole);
      const words = task.done !== null ? `arrived as #${task.done}`
        : left > 0 ? `${Math.ceil(left / 1000)} s left`
        : !this.#connected ? 'connect to receive it'
        : left > -LATE ? 'arriving' : 'no result yet';
      const status = li.querySelector('.status');
      if (status.textContent !== words) status.textContent = words;
    });
  }
}

const hex = (bytes) =>
  Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (b) => b.toString(16).padStart(2, '0')).join('');
