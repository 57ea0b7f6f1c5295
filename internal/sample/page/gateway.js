// One user's connection to the gateway, subprotocol restante.v1.
//
// It stays connected until stop() is called, somebody removes the session, or
// the ID token is no longer good. Every connection is opened with a fresh
// single-use token. A message is acknowledged after take() has returned for it,
// so what the page has not kept is sent again.

const FATAL = {
  1008: 'The gateway and this page do not understand each other. Reload the page.',
  4410: 'An operator has removed this connection.',
};
const WHY = {
  1012: 'The gateway is restarting.',
  1013: 'The gateway is busy.',
  4409: 'Too many connections of this user.',
};

export class Connection {
  #stopped = true;
  #socket = null;
  #timer = null;
  #turn = 0;     // counts openings and stops: an answer that belongs to an earlier one is ignored
  #attempt = 0;
  #greeted = false; // hello has arrived on this socket
  #silence = 0;  // ms without a frame after which the connection counts as dead; 0: the gateway does not say
  #watchdog = null;
  #pause = null; // ms the gateway asked us to stay away
  #batch = [];   // frames that have arrived and are not taken yet

  /**
   * @param {{gatewayUrl: string,
   *   idToken: () => string | null,
   *   state: (name: 'offline'|'connecting'|'connected', detail: string) => void,
   *   hello: (frame: object) => void,
   *   take: (frames: object[]) => void}} options
   *   take gets message and gap frames in order and must have kept them when it returns.
   */
  constructor(options) {
    this.options = options;
    // A phone that finds its network again should not wait for the timer.
    const look = () => (this.#soon(), this.#ask());
    addEventListener('online', look);
    addEventListener('visibilitychange', () => document.visibilityState === 'visible' && look());
  }

  start() {
    if (!this.#stopped) return;
    this.#stopped = false;
    this.#attempt = 0;
    this.#open();
  }

  stop(detail = '') {
    this.#stopped = true;
    this.#turn++;
    clearTimeout(this.#timer);
    clearTimeout(this.#watchdog);
    this.#timer = null;
    this.#flush();
    const socket = this.#socket;
    this.#socket = null;
    socket?.close(1000);
    this.options.state('offline', detail);
  }

  #soon() {
    if (this.#stopped || this.#timer === null) return;
    clearTimeout(this.#timer);
    this.#open();
  }

  async #open() {
    const turn = ++this.#turn;
    this.#timer = null;
    this.options.state('connecting', '');
    const socketUrl = await this.#socketUrl();
    if (turn !== this.#turn) return;
    if (socketUrl === null) return this.#retry('The gateway is not available.');
    const socket = new WebSocket(socketUrl, ['restante.v1']);
    this.#socket = socket;
    // A network that swallows packets would leave us "connecting" for minutes.
    setTimeout(() => turn === this.#turn && !this.#greeted && socket.close(), 15000);
    this.#greeted = false;
    socket.onmessage = (event) => this.#socket === socket && this.#frame(event.data);
    socket.onclose = (event) => this.#socket === socket && this.#ended(event.code);
  }

  #ended(code) {
    clearTimeout(this.#watchdog);
    this.#flush();
    this.#socket = null;
    if (FATAL[code]) return this.stop(FATAL[code]);
    this.#retry(WHY[code] ?? (this.#greeted ? 'The connection was lost.' : 'The gateway is not available.'));
  }

  // A network that goes silent closes nothing: the socket would stay open for
  // minutes while a message waits. The gateway sends something every so often.
  #watch(ms) {
    clearTimeout(this.#watchdog);
    if (ms > 0) this.#watchdog = setTimeout(() => this.#silent(), ms);
  }

  #silent() {
    const socket = this.#socket;
    if (!socket) return;
    this.#ended(); // the browser would wait for the answer to its close
    socket.close();
  }

  /** The network may have changed: is the gateway still there? */
  #ask() {
    if (!this.#silence || this.#socket?.readyState !== WebSocket.OPEN) return;
    this.#socket.send('{"kind":"ping"}');
    this.#watch(Math.min(this.#silence, 5000));
  }

  /** Exchanges the ID token for a single-use token; null when that failed for now. */
  async #socketUrl() {
    const idToken = this.options.idToken();
    if (!idToken) return this.stop('Your sign-in has expired. Sign in again.'), null;
    try {
      const response = await fetch(this.options.gatewayUrl + '/v1/tokens', {
        method: 'POST', headers: { Authorization: 'Bearer ' + idToken },
        credentials: 'omit', signal: AbortSignal.timeout(10000),
      });
      if (response.status === 401) return this.stop('The gateway did not accept your sign-in. Sign in again.'), null;
      if (!response.ok) {
        this.#pause = 1000 * (Number(response.headers.get('Retry-After')) || 0);
        return null;
      }
      const { token } = await response.json();
      return this.options.gatewayUrl.replace(/^http/, 'ws') + '/v1/connect?token=' + encodeURIComponent(token);
    } catch {
      return null; // the gateway is away
    }
  }

  /** Comes back after a jittered pause, never earlier than the gateway asked. */
  #retry(why) {
    if (this.#stopped) return;
    const limit = Math.min(30000, 500 * 2 ** this.#attempt++);
    const pause = Math.max(this.#pause ?? 0, 0) + Math.random() * limit + 50;
    this.#pause = null;
    this.#timer = setTimeout(() => this.#open(), pause);
    this.options.state('connecting', `${why} Trying again in ${Math.max(1, Math.round(pause / 1000))} s; nothing is lost.`);
  }

  #frame(data) {
    const frame = JSON.parse(data);
    if (frame.kind === 'hello') this.#silence = 2500 * (frame.pingEverySeconds ?? 0);
    this.#watch(this.#silence);
    switch (frame.kind) {
      case 'hello':
        this.#attempt = 0;
        this.#greeted = true;
        this.options.hello(frame);
        this.options.state('connected', '');
        break;
      case 'message':
      case 'gap':
        // A backlog arrives in a burst: take it in batches, so that keeping
        // and acknowledging cost once per batch.
        if (this.#batch.push(frame) === 1) setTimeout(() => this.#flush(), 10);
        break;
      case 'bye':
        this.#pause = frame.reconnectAfterMs ?? 0;
        break;
      // Pings and pongs have done their work; frames of a newer gateway are none of our business.
    }
  }

  #flush() {
    const frames = this.#batch;
    if (frames.length === 0) return;
    this.#batch = [];
    this.options.take(frames);
    if (this.#socket?.readyState === WebSocket.OPEN) {
      // A gap is confirmed like a message: the user has been told of it.
      const last = frames.at(-1);
      this.#socket.send(JSON.stringify({ kind: 'ack', seq: last.seq ?? last.to }));
    }
  }
}
