// Puts the pictures the daemon draws in their place, and sends taps. It decides
// nothing, keeps nothing and remembers nothing beyond the current screen.
'use strict';
(() => {
  const root = document.documentElement;
  const part = (id) => document.getElementById(id);
  const top = part('top'), main = part('main'), util = part('util'), say = part('say'), lost = part('lost');
  const { start, token } = root.dataset;
  let { key, serial } = root.dataset;
  let beeps = Number(root.dataset.beep), quiet = 'quiet' in root.dataset;

  // ---- pictures ----

  // patch brings old to the shape of next in place, so that focus and screen
  // reader stay where they are while a bar grows or a count falls.
  function patch(old, next) {
    for (const a of [...old.attributes]) if (!next.hasAttribute(a.name)) old.removeAttribute(a.name);
    for (const a of next.attributes) if (old.getAttribute(a.name) !== a.value) old.setAttribute(a.name, a.value);
    patchInside(old, next);
  }
  function patchInside(old, next) {
    const was = [...old.childNodes], will = [...next.childNodes];
    will.forEach((n, i) => {
      const o = was[i];
      if (!o) old.append(n);
      else if (o.nodeType !== n.nodeType || o.nodeName !== n.nodeName) o.replaceWith(n);
      else if (n.nodeType === Node.ELEMENT_NODE) patch(o, n);
      else if (o.data !== n.data) o.data = n.data;
    });
    was.slice(will.length).forEach((o) => o.remove());
  }
  function fill(region, markup) {
    const t = document.createElement('template');
    t.innerHTML = markup;
    patchInside(region, t.content);
  }

  function show(m) {
    if (m.start !== start) { location.reload(); return; }
    const fresh = m.key !== key;
    ({ key, serial, quiet } = m);
    for (const [name, value] of Object.entries(m.root)) {
      if (value === '') root.removeAttribute(name); else root.setAttribute(name, value);
    }
    document.title = m.title;
    if (fresh) main.innerHTML = m.main; else fill(main, m.main);
    fill(top, m.top);
    fill(util, m.util);
    top.inert = util.inert = 'covered' in root.dataset;
    if (fresh || say.textContent !== m.say) say.textContent = m.say;
    if (fresh) main.querySelector('h1').focus({ preventScroll: true });
    speech(m.turn, m.speak);
    if (m.beep > beeps) sound(1760, 0.16, 0.2);
    beeps = m.beep;
    root.dataset.drawn = key; // what is on the screen now, for whoever looks from outside
  }

  // ---- taps ----

  let tapped = -Infinity;   // when a button was last pressed
  let finger = null;        // the pointer that is down
  let pressed = null;       // the button it went down on

  const button = (e) => e && e.closest('[data-tap]');
  const dim = () => 'dim' in root.dataset;

  // One after the other, so that they arrive in the order in which they were pressed.
  let sent = Promise.resolve();
  function send(tap, arg) {
    const body = JSON.stringify({ token, serial: Number(serial), tap, arg });
    sent = sent.then(() => fetch('/tap', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body, signal: AbortSignal.timeout(3000) }))
      .then((r) => { if (r.status === 403) location.reload(); }, () => { /* the stream notices too */ });
  }
  function press(b) {
    const now = performance.now();
    if (now - tapped < 400 && !('fast' in b.dataset)) return;
    tapped = now;
    if (!quiet) sound(880, 0.03, 0.06);
    send(b.dataset.tap, b.dataset.arg);
  }
  // A button that is held says so again and again: the motor behind it stops when
  // this page, or the finger, is gone.
  let holding = null;
  function grip(b) {
    letGoOf();
    send(b.dataset.tap, b.dataset.arg);
    holding = setInterval(() => send('still'), 200);
  }
  function letGoOf() {
    if (holding === null) return;
    clearInterval(holding);
    holding = null;
    send('let');
  }

  // The first touch of a dimmed screen wakes it and does nothing else.
  function wake() {
    const now = performance.now();
    if (now - tapped < 400) return;
    tapped = now;
    send('next');
  }

  addEventListener('pointerdown', (e) => {
    if (finger !== null) return; // a second finger
    finger = e.pointerId;
    pressed = button(e.target);
    if (pressed && 'hold' in pressed.dataset) grip(pressed);
  });
  addEventListener('pointerup', (e) => {
    if (e.pointerId !== finger) return;
    const b = pressed;
    finger = pressed = null;
    letGoOf();
    if (b && 'hold' in b.dataset) return;
    if (dim()) wake();
    else if (b && button(document.elementFromPoint(e.clientX, e.clientY)) === b) press(b);
  });
  addEventListener('pointercancel', (e) => { if (e.pointerId === finger) { finger = pressed = null; letGoOf(); } });
  // Keys and assistive technology arrive as clicks that no pointer made.
  addEventListener('click', (e) => {
    if (e.detail !== 0) return;
    const b = button(e.target);
    if (b && !dim() && !('hold' in b.dataset)) press(b);
  });
  addEventListener('keyup', letGoOf);
  addEventListener('blur', letGoOf);
  addEventListener('keydown', (e) => {
    if (dim()) { e.preventDefault(); if (!e.repeat) wake(); return; }
    if (e.key === 'Escape') {
      const b = main.querySelector('[data-esc]');
      if (b && !e.repeat && lost.hidden) press(b);
    } else if (e.key === 'Enter' || e.key === ' ') {
      const holds = document.activeElement && 'hold' in document.activeElement.dataset;
      if (e.repeat || holds) e.preventDefault();
      if (holds && !e.repeat) grip(document.activeElement);
    } else if (e.key === 'Tab') {
      // Round and round: there is nothing outside this page.
      const all = [...document.querySelectorAll('button')].filter((b) => !b.closest('[inert]'));
      if (!all.length) return;
      const i = all.indexOf(document.activeElement);
      if (e.shiftKey ? i <= 0 : i === all.length - 1) {
        e.preventDefault();
        all[e.shiftKey ? all.length - 1 : 0].focus();
      }
    }
  });
  addEventListener('contextmenu', (e) => e.preventDefault());

  // ---- sound ----

  let audio = null;
  function sound(hertz, seconds, loudness) {
    audio ||= new AudioContext();
    audio.resume();
    const tone = audio.createOscillator(), level = audio.createGain();
    tone.frequency.value = hertz;
    level.gain.setValueAtTime(loudness, audio.currentTime);
    level.gain.exponentialRampToValueAtTime(0.0001, audio.currentTime + seconds);
    tone.connect(level).connect(audio.destination);
    tone.start();
    tone.stop(audio.currentTime + seconds);
  }

  // ---- voice ----

  // One recording after the other; whatever comes next cuts off what is being said.
  const player = new Audio();
  let queue = [], turn = null, line = '';
  player.addEventListener('ended', next);
  player.addEventListener('error', next); // a line that cannot be played is passed over
  function next() {
    const clip = queue.shift();
    root.dataset.saying = clip || ''; // for whoever looks from outside
    if (!clip) return;
    player.src = `/voice/${root.lang === 'en' ? 'en' : 'zh-CN'}/${clip}.opus`;
    player.volume = (Number(root.dataset.voice) / 5) ** 2; // steps that sound even
    player.play().catch(() => { /* 'error' has told, or another line came */ });
  }
  function speak(clips) {
    player.pause();
    queue = root.dataset.voice ? clips.split(' ').filter(Boolean) : [];
    next();
  }
  function speech(now, clips) {
    now += 'voice' in root.dataset;
    line = clips;
    if (now !== turn) speak(clips);
    turn = now;
    player.volume = (Number(root.dataset.voice || 0) / 5) ** 2;
  }
  // A control says its name when it takes the focus, but not together with a new
  // screen, whose heading has it.
  addEventListener('focusin', (e) => {
    const clips = e.target.dataset.say;
    if (clips) speak(clips);
  });
  // The round key held down says the screen's line again.
  let held = null;
  const letGo = () => { clearTimeout(held); held = null; };
  addEventListener('keydown', (e) => {
    if (e.key === 'Enter' && !e.repeat) { letGo(); held = setTimeout(() => speak(line), 700); }
  });
  addEventListener('keyup', letGo);
  addEventListener('blur', letGo);
  speech(root.dataset.turn, root.dataset.speak);

  // ---- the line to the daemon ----

  let lastHeard = 0, waitMS = 250, gone = null;
  function heard() {
    lastHeard = performance.now();
    clearTimeout(gone);
    gone = null;
    waitMS = 250;
    if (lost.hidden) return;
    lost.hidden = true;
    main.inert = false;
    top.inert = util.inert = 'covered' in root.dataset;
    main.querySelector('h1').focus({ preventScroll: true });
  }
  function missing() {
    gone ||= setTimeout(() => {
      lost.hidden = false;
      top.inert = main.inert = util.inert = true;
    }, 3000);
  }
  // drawn tells the daemon that this page is really on a screen. Whoever keeps the
  // browser asks the daemon, and starts another browser when this stays away.
  function drawn() {
    requestAnimationFrame(() => { fetch('/beat', { method: 'POST' }).catch(() => { /* the stream notices too */ }); });
  }
  function follow() {
    const line = new EventSource('/events');
    lastHeard = performance.now();
    let ended = false;
    const again = () => {
      if (ended) return;
      ended = true;
      line.close();
      clearInterval(watch);
      missing();
      setTimeout(follow, waitMS);
      waitMS = Math.min(waitMS * 2, 8000);
    };
    // A daemon that hangs closes nothing: three missed beats count as gone.
    const watch = setInterval(() => { if (performance.now() - lastHeard > 45000) again(); }, 5000);
    line.addEventListener('message', (e) => { heard(); show(JSON.parse(e.data)); });
    line.addEventListener('beat', () => { heard(); drawn(); });
    line.addEventListener('open', drawn);
    line.addEventListener('error', again);
  }
  follow();

  // Two pixels every ten minutes, so that nothing burns into the panel.
  let shift = 0;
  setInterval(() => { shift = (shift + 1) % 4; root.dataset.shift = shift; }, 600000);
})();
