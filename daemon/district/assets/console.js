// The page fetches itself again when the district says that something changed,
// and every 15 seconds because ages grow. Without this script it still works: by
// reloading.
(() => {
  'use strict';
  const every = 15000, limit = 10000;
  let busy = false, again = false, good = Date.now();

  // morph makes a into b and keeps every element that stays: focus, an opened
  // list and the reader's place survive.
  const morph = (a, b) => {
    if (a.isEqualNode(b)) return;
    if (a.nodeType !== b.nodeType || a.nodeName !== b.nodeName || a.id !== b.id) {
      a.replaceWith(b.cloneNode(true));
      return;
    }
    if (a.nodeType === Node.TEXT_NODE) {
      a.data = b.data;
      return;
    }
    for (const x of [...a.attributes]) if (!b.hasAttribute(x.name)) a.removeAttribute(x.name);
    for (const x of b.attributes) if (a.getAttribute(x.name) !== x.value) a.setAttribute(x.name, x.value);
    const from = [...a.childNodes], to = [...b.childNodes];
    to.forEach((n, i) => from[i] ? morph(from[i], n) : a.append(n.cloneNode(true)));
    from.slice(to.length).forEach(n => n.remove());
  };

  const lost = yes => {
    const p = document.getElementById('lost'), text = yes ? p.dataset.text : '';
    if (p.textContent !== text) p.textContent = text;
  };

  const refresh = async () => {
    if (busy) { again = true; return; }
    if (document.hidden || document.querySelector('button:active, a:active, select:focus')) return;
    busy = true;
    try {
      const r = await fetch(location.href, { signal: AbortSignal.timeout(limit) });
      if (!r.ok) throw new Error(r.status);
      const page = new DOMParser().parseFromString(await r.text(), 'text/html');
      for (const id of ['sub', 'chips', 'list', 'panel']) {
        const a = document.getElementById(id), b = page.getElementById(id);
        if (a && b) morph(a, b);
      }
      good = Date.now();
      lost(false);
    } catch {
      if (Date.now() - good > 2 * every) lost(true);
    } finally {
      busy = false;
      if (again) { again = false; refresh(); }
    }
  };

  new EventSource('/live').addEventListener('change', refresh);
  setInterval(refresh, every);
  document.addEventListener('visibilitychange', refresh);
})();
