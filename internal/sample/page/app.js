// The demonstration page: who is signed in, what is connected, what is shown.

import { Connection } from './gateway.js';
import { Messages } from './messages.js';
import * as oidc from './session.js';
import { Tasks } from './tasks.js';

const $ = (id) => document.getElementById(id);
const WANTED = 'restante.connect'; // set while the user wants to be connected, also after reopening

const messages = new Messages($('messages'), $('no-messages'));
const tasks = new Tasks($('tasks'));
let config;
let connection;
let session = null;
let unseen = 0; // messages that came while the tab was in the background

async function main() {
  const response = await fetch('config.json', { signal: AbortSignal.timeout(10000) }).catch(() => null);
  if (!response?.ok) throw new Error('The sample application does not answer. Reload this page in a moment.');
  config = await response.json();
  connection = new Connection({
    gatewayUrl: config.gatewayUrl,
    idToken: () => oidc.current(config)?.idToken ?? null,
    state: showState,
    hello: (frame) => messages.hello(frame),
    take: (frames) => {
      const fresh = messages.take(frames);
      fresh.forEach((message) => tasks.received(message));
      showUnseen(fresh.length);
    },
  });
  listen();
  try {
    await oidc.finish(config);
  } finally {
    showSession();
  }
  if (session && localStorage.getItem(WANTED)) connection.start();
}

function listen() {
  $('sign-in').addEventListener('click', guarded(() => oidc.begin(config)));
  $('sign-out').addEventListener('click', guarded(() => {
    connection.stop();
    localStorage.removeItem(WANTED);
    messages.forget();
    tasks.forget();
    oidc.signOut();
    showSession();
  }));
  $('connect').addEventListener('click', guarded(() => {
    localStorage.setItem(WANTED, '1');
    connection.start();
  }));
  $('disconnect').addEventListener('click', guarded(() => {
    localStorage.removeItem(WANTED);
    connection.stop();
  }));
  $('task-form').addEventListener('submit', guarded(async (event) => {
    event.preventDefault();
    if (!(session = oidc.current(config))) {
      showSession();
      throw new Error('Your sign-in has expired. Sign in again.');
    }
    $('task-start').disabled = true;
    try {
      await tasks.start(session, $('task-message').value, Number($('task-wait').value));
    } finally {
      $('task-start').disabled = false;
    }
  }));
  $('copy-token').addEventListener('click', guarded(async () => {
    await navigator.clipboard.writeText(`export ID_TOKEN='${oidc.current(config).idToken}'`);
    $('copied').textContent = 'Copied. Paste it into a terminal; it is as good as your password until it expires.';
  }));
  addEventListener('visibilitychange', () => showUnseen(0));
  // Another tab of this browser has signed in or out.
  addEventListener('storage', (event) => {
    if (event.key !== 'restante.session') return;
    connection.stop();
    showSession();
  });
}

/** Runs an event's handler and shows what goes wrong in words. */
function guarded(handler) {
  return async (event) => {
    notice('');
    try {
      await handler(event);
    } catch (error) {
      notice(error.message);
    }
  };
}

function notice(words) {
  $('notice').textContent = words;
  $('notice').hidden = words === '';
}

function showUnseen(more) {
  unseen = document.visibilityState === 'visible' ? 0 : unseen + more;
  document.title = unseen ? `(${unseen}) Restante` : 'Restante';
}

function showSession() {
  session = oidc.current(config);
  $('user').hidden = !session;
  $('signed-out').hidden = Boolean(session);
  swap($('sign-in'), $('sign-out'), !session);
  $('task-start').disabled = $('copy-token').disabled = !session;
  if (session) {
    $('user').dataset.userId = session.userId;
    $('user-name').textContent = session.username;
    $('user-id').textContent = session.userId;
    $('user-id-line').hidden = session.userId === session.username;
    $('user-until').textContent = new Date(session.expires).toLocaleTimeString([], { timeStyle: 'short' });
    messages.open(session.userId);
    tasks.open(session.userId);
  } else {
    delete $('user').dataset.userId;
    messages.close();
    tasks.close();
  }
  showCommands();
  showState('offline', '');
}

const STATES = {
  offline: ['Not connected', 'Messages wait at the gateway until you connect.'],
  connecting: ['Connecting', 'Fetching a single-use token for this connection.'],
  connected: ['Connected', 'Messages appear here by themselves, those that waited first.'],
};

function showState(state, detail) {
  if (state === 'offline' && session && !oidc.current(config)) showSession(); // it has expired
  const [word, meaning] = STATES[state];
  $('state').dataset.state = state;
  if ($('state').textContent !== word) $('state').textContent = word; // a screen reader says it once
  $('connection-detail').textContent = detail || (session ? meaning : 'Messages wait at the gateway until you sign in and connect.');
  $('connect').disabled = !session;
  swap($('connect'), $('disconnect'), state === 'offline');
  tasks.connected = state === 'connected';
}

/** Shows one of two buttons that stand for each other; the focus stays with them. */
function swap(one, other, first) {
  const [shown, hidden] = first ? [one, other] : [other, one];
  const focused = document.activeElement === hidden;
  shown.hidden = false;
  hidden.hidden = true;
  if (focused) shown.focus();
}

function showCommands() {
  const user = session ? quoted(session.username) : 'testUser';
  $('commands-msg').textContent = [
    ...elsewhere(),
    '# sign in, in each terminal',
    `eval "$(go run ./cmd/msg auth -u ${user} -p PASSWORD)"`,
    '',
    '# a long task, whose result is a message',
    'go run ./cmd/msg send-message "The report is ready" -w 20',
    '',
    '# a message as a back end sends it',
    `go run ./cmd/msg publish ${session ? quoted(session.userId) : user} "Your order has left"`,
    '',
    '# receive in the terminal',
    'go run ./cmd/msg connect-websocket',
  ].join('\n');
  $('commands-curl').textContent = [
    '# start a task',
    `curl ${location.origin}/process -H "Authorization: Bearer $ID_TOKEN" \\`,
    `  -H 'Content-Type: application/json' -d '{"message": "The report is ready", "wait": 20}'`,
    '',
    '# a single-use token for one connection, good for 30 seconds',
    `curl -X POST ${config.gatewayUrl}/v1/tokens -H "Authorization: Bearer $ID_TOKEN"`,
    '',
    '# open this with any WebSocket client',
    `${config.gatewayUrl.replace(/^http/, 'ws')}/v1/connect?token=TOKEN`,
  ].join('\n');
}

/** What msg has to be told when the parts are not where it looks for them. */
function elsewhere() {
  const lines = [
    ['RESTANTE_URL', config.gatewayUrl, 'http://127.0.0.1:8080'],
    ['RESTANTE_ISSUER', config.issuer, 'http://127.0.0.1:8081'],
    ['RESTANTE_SAMPLE_URL', location.origin, 'http://127.0.0.1:8082'],
  ].filter(([, url, usual]) => url !== usual && url !== usual.replace('127.0.0.1', 'localhost'))
    .map(([name, url]) => `export ${name}=${url}`);
  return lines.length ? [...lines, ''] : [];
}

/** A word of a shell command. */
const quoted = (text) => (/^[\w@.:+-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`);

main().catch((error) => notice(error.message));
