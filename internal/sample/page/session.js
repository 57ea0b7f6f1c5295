// Signing in: OpenID Connect, authorization code with PKCE, as a public client.
//
// The ID token is kept in localStorage, not sessionStorage: somebody who closes
// the tab and opens it again is still signed in and finds the messages that
// waited. The price is that any script of this origin can read it, so this
// origin serves none but its own (see the Content-Security-Policy). The token is
// never used beyond its own expiry, and there is no refresh token to steal.

const STORED = 'restante.session';
const PENDING = 'restante.sign-in'; // one attempt: sessionStorage, so that two tabs do not mix theirs

/** The signed-in user, or null: {idToken, userId, username, expires (ms)}. */
export function current(config) {
  try {
    const session = JSON.parse(localStorage.getItem(STORED));
    if (session && session.issuer === config.issuer && session.expires > Date.now() + 5000) return session;
  } catch { /* not ours, or damaged: signed out */ }
  return null;
}

/** Forgets the session. The next sign-in asks for the password again. */
export function signOut() {
  localStorage.removeItem(STORED);
  sessionStorage.setItem('restante.ask-again', '1');
}

/** Leaves the page for the issuer's login form. */
export async function begin(config) {
  if (!globalThis.crypto?.subtle) {
    throw new Error('Signing in needs a secure page: open it as http://127.0.0.1 or localhost, or serve it over https.');
  }
  const { authorization_endpoint: endpoint } = await discover(config.issuer);
  const attempt = { state: random(), nonce: random(), verifier: random() };
  const challenge = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(attempt.verifier));
  sessionStorage.setItem(PENDING, JSON.stringify(attempt));
  const url = new URL(endpoint);
  const parameters = {
    response_type: 'code', client_id: config.clientId, redirect_uri: redirectUri(), scope: config.scope,
    state: attempt.state, nonce: attempt.nonce, code_challenge: base64url(challenge), code_challenge_method: 'S256',
  };
  if (sessionStorage.getItem('restante.ask-again')) parameters.prompt = 'login';
  for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value);
  location.assign(url);
}

/** Finishes a sign-in when the issuer has just sent the browser back here. */
export async function finish(config) {
  const answer = new URLSearchParams(location.search);
  if (!answer.has('state')) return;
  // The code must not stay in the address bar, the history or a bookmark.
  history.replaceState(null, '', location.pathname);
  const attempt = JSON.parse(sessionStorage.getItem(PENDING) ?? 'null');
  sessionStorage.removeItem(PENDING);
  if (!attempt || answer.get('state') !== attempt.state) {
    throw new Error('This sign-in was not started in this tab. Please sign in again.');
  }
  if ((answer.get('iss') ?? config.issuer) !== config.issuer) {
    throw new Error('The answer came from another issuer than the one that was asked.');
  }
  if (answer.has('error')) {
    throw new Error('Sign-in failed: ' + (answer.get('error_description') ?? answer.get('error')));
  }
  const { token_endpoint: endpoint } = await discover(config.issuer);
  const response = await fetch(endpoint, {
    method: 'POST', credentials: 'omit', signal: AbortSignal.timeout(15000),
    body: new URLSearchParams({
      grant_type: 'authorization_code', code: answer.get('code') ?? '', redirect_uri: redirectUri(),
      client_id: config.clientId, code_verifier: attempt.verifier,
    }),
  }).catch(() => {
    throw new Error(`The issuer at ${config.issuer} cannot be reached. Sign in again in a moment.`);
  });
  const tokens = await response.json().catch(() => ({}));
  if (!response.ok || !tokens.id_token) {
    throw new Error('Sign-in failed: ' + (tokens.error_description ?? tokens.error ?? `the issuer answered ${response.status}`));
  }
  // The token came straight from the issuer over our own request, so its
  // signature adds nothing here (the gateway checks it); that it belongs to
  // this very attempt does.
  const claims = claimsOf(tokens.id_token);
  if (claims.nonce !== attempt.nonce || claims.iss !== config.issuer || ![claims.aud].flat().includes(config.clientId)) {
    throw new Error('The issuer sent a token that was not made for this sign-in.');
  }
  sessionStorage.removeItem('restante.ask-again');
  localStorage.setItem(STORED, JSON.stringify({
    issuer: config.issuer, idToken: tokens.id_token, userId: claims.sub, expires: claims.exp * 1000,
    username: claims.preferred_username || claims['cognito:username'] || claims.name || claims.email || claims.sub,
  }));
}

async function discover(issuer) {
  const url = issuer.replace(/\/$/, '') + '/.well-known/openid-configuration';
  let response;
  try {
    response = await fetch(url, { credentials: 'omit', signal: AbortSignal.timeout(10000) });
  } catch {
    throw new Error(`The issuer at ${issuer} cannot be reached. Is it running?`);
  }
  if (!response.ok) throw new Error(`The issuer at ${issuer} answered ${response.status}.`);
  return response.json();
}

const redirectUri = () => location.origin + location.pathname;
const random = () => base64url(crypto.getRandomValues(new Uint8Array(32)));
const base64url = (bytes) =>
  btoa(String.fromCharCode(...new Uint8Array(bytes))).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');

function claimsOf(token) {
  const part = token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/');
  return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (c) => c.charCodeAt(0))));
}
