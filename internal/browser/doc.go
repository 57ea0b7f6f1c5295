// Package browser tests the demonstration page and the login page as a person
// meets them: the real `server -dev`, started as a process, and a real Chromium
// without a window.
//
// It promises what only a browser can show: that signing in, connecting, a long
// task, closing the tab and opening it again work together; that what was sent
// meanwhile is there in the order of seq; that nothing is written to the console
// and no Content-Security-Policy is violated; that the pages fit a phone, can be
// used with a keyboard, and have the contrast that readers need.
//
// Every wait is for a condition of the page or of the gateway and has a
// deadline. Chromium and the servers belong to the test process: they are
// stopped at its end, by process id, and Chromium is killed by the kernel if the
// test process dies first (on Linux).
//
// Without Chromium the tests do not pass: as root with apt-get it is installed,
// else they fail and say what to install.
package browser
