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

async function main() {
  const response = await fetch('config.json', { signal: AbortSignal.timeout(10000) });
  if (!response.ok) throw new Error('The page’s configuration cannot be read.');
  config = await response.json();
  connection = new Connection({
    gatewayUrl: config.gatewayUrl,
    idToken: () => oidc.current(config)?.idToken ?? null,
    state: showState,
    hello: (frame) => messages.hello(frame),
    take: (frames) => messages.take(frames).forEach((message) => tasks.received(message)),
  });
  listen();
  showCommands();
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

function showSession() {
  session = oidc.current(config);
  $('user').hidden = $('sign-out').hidden = !session;
  $('signed-out').hidden = $('sign-in').hidden = Boolean(session);
  $('task-start').disabled = $('copy-token').disabled = !session;
  if (session) {
    $('user').dataset.userId = session.userId;
    $('user-name').textContent = session.username;
    $('user-id').textContent = session.userId;
    $('user-until').textContent = new Date(session.expires).toLocaleString();
    messages.open(session.userId);
    tasks.open(session.userId);
  } else {
    delete $('user').dataset.userId;
    messages.close();
    tasks.close();
  }
  showState('offline', '');
}

function showState(state, detail) {
  if (state === 'offline' && session && !oidc.current(config)) showSession(); // it has expired
  $('state').dataset.state = state;
  $('state').textContent = state;
  $('connection-detail').textContent = detail;
  $('connect').disabled = !session || state !== 'offline';
  $('disconnect').disabled = state === 'offline';
}

function showCommands() {
  const here = location.origin;
  $('commands-msg').textContent = [
    'eval "$(go run ./cmd/msg auth -p PASSWORD)"',
    'go run ./cmd/msg connect-websocket',
    'go run ./cmd/msg send-message "The report is ready" -w 20',
  ].join('\n');
  $('commands-curl').textContent = [
    '# start a task',
    `curl -X POST ${here}/process -H "Authorization: $ID_TOKEN" \\`,
    `  -H 'Content-Type: application/json' -d '{"message": "The report is ready", "wait": 20}'`,
    '',
    '# a single-use token for one connection (30 seconds)',
    `curl -X POST ${config.gatewayUrl}/v1/tokens -H "Authorization: Bearer $ID_TOKEN"`,
    '# then open this with any WebSocket client',
    `${config.gatewayUrl.replace(/^http/, 'ws')}/v1/connect?token=TOKEN`,
  ].join('\n');
}

main().catch((error) => notice(error.message));
