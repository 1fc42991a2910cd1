// audit lists what is wrong with the layout of the page as it stands: cut or
// overlapping text, targets that are too small, things outside the panel.
window.audit = () => {
  const wrong = [];
  const W = innerWidth, H = innerHeight, portrait = H > W;
  const big = document.documentElement.hasAttribute('data-big');
  const staff = document.querySelector('.work, .pin') !== null; // denser: for people who do this every day
  const smallest = staff ? (portrait ? 26 : 18) : portrait ? (big ? 40 : 32) : (big ? 30 : 24);
  const utilSmallest = portrait ? 32 : 24; // the bar has a fixed place for its words
  const lowest = {
    pri: portrait ? 168 : 116, btn: portrait ? 136 : 92, prod: portrait ? 180 : 128, util: portrait ? 148 : 72, staff: portrait ? 112 : 62, slot: portrait ? 90 : 58,
  };
  const covered = document.documentElement.hasAttribute('data-covered');
  const scope = covered ? document.querySelector('main') : document.body;
  const shown = (e) => !e.closest('.vh, [hidden]') && e.getClientRects().length > 0 && getComputedStyle(e).visibility !== 'hidden';
  const call = (e) => (e.className && e.className.baseVal === undefined ? e.tagName.toLowerCase() + '.' + e.className : e.tagName) + ' "' + e.textContent.trim().slice(0, 20) + '"';
  const inside = (a, b, slack) => a.left >= b.left - slack && a.right <= b.right + slack && a.top >= b.top - slack && a.bottom <= b.bottom + slack;
  const cross = (a, b, slack) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > slack && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > slack;
  const round = (r) => [r.left, r.top, r.right, r.bottom].map(Math.round).join(',');

  // Lines of text, as high as their letters: a line's box is higher than its ink.
  const lines = [];
  const walk = document.createTreeWalker(scope, NodeFilter.SHOW_TEXT);
  for (let n = walk.nextNode(); n; n = walk.nextNode()) {
    const e = n.parentElement;
    if (!n.data.trim() || !shown(e)) continue;
    const size = parseFloat(getComputedStyle(e).fontSize);
    if (size < (e.closest('.util') ? utilSmallest : smallest) - 0.5) wrong.push(`text of ${size}px: ${call(e)}`);
    const range = document.createRange();
    range.selectNodeContents(n);
    for (const r of range.getClientRects()) {
      if (r.width < 1) continue;
      const mid = (r.top + r.bottom) / 2;
      lines.push({ e, n, left: r.left, right: r.right, top: mid - size * 0.47, bottom: mid + size * 0.47 });
    }
  }
  // A word of letters stays on one line.
  const seen = new Set();
  for (const { e, n } of lines) {
    if (seen.has(n)) continue;
    seen.add(n);
    for (const w of n.data.matchAll(/[A-Za-z]{2,}/g)) {
      const range = document.createRange();
      range.setStart(n, w.index);
      range.setEnd(n, w.index + w[0].length);
      if (new Set([...range.getClientRects()].map((r) => Math.round(r.top))).size > 1) wrong.push(`word broken: ${w[0]} in ${call(e)}`);
    }
  }
  const controls = [...scope.querySelectorAll('button')].filter(shown).map((e) => {
    const r = e.getBoundingClientRect();
    return { e, left: r.left, right: r.right, top: r.top, bottom: r.bottom };
  });
  const panel = { left: 0, top: 0, right: W, bottom: H };
  for (const l of lines) {
    if (!inside(l, panel, 1)) wrong.push(`outside the panel: ${call(l.e)} at ${round(l)}`);
    for (let c = l.e; c && c !== scope; c = c.parentElement) {
      if (c.matches('button, .box, .pill, .steps, .left, .look, .touch, header, .util, .c') && getComputedStyle(c).display !== 'contents' && !inside(l, c.getBoundingClientRect(), 2)) {
        wrong.push(`sticks out of ${c.className || c.tagName}: ${call(l.e)} at ${round(l)}, room ${round(c.getBoundingClientRect())}`);
      }
    }
  }
  lines.forEach((a, i) => lines.slice(i + 1).forEach((b) => {
    if (a.e.closest('.left') || b.e.closest('.left')) return; // the call for a card lies over the head on purpose
    if (a.n !== b.n && cross(a, b, 2)) wrong.push(`text over text: ${call(a.e)} and ${call(b.e)}`);
  }));
  controls.forEach((c, i) => {
    if (!inside(c, panel, 1)) wrong.push(`outside the panel: ${call(c.e)} at ${round(c)}`);
    controls.slice(i + 1).forEach((d) => { if (cross(c, d, 0)) wrong.push(`control over control: ${call(c.e)} and ${call(d.e)}`); });
    lines.forEach((l) => { if (!c.e.contains(l.e) && cross(c, l, 1)) wrong.push(`text over control: ${call(l.e)} and ${call(c.e)}`); });
    const kind = c.e.matches('.pri') ? 'pri' : c.e.matches('.btn') ? 'btn' : c.e.matches('.prod') ? 'prod' : c.e.matches('.slot') ? 'slot' : c.e.matches('.key, .barkey') ? 'staff' : 'util';
    const h = c.bottom - c.top, w = c.right - c.left;
    if (h < lowest[kind] - 0.5 || w < (c.e.closest('.letters') ? 58 : lowest[kind]) - 0.5) wrong.push(`${kind} is ${Math.round(w)}x${Math.round(h)}, at least ${lowest[kind]}: ${call(c.e)}`);
    if (portrait && !staff && c.top < H * 0.28) wrong.push(`out of reach, top at ${Math.round(c.top)}: ${call(c.e)}`);
  });
  for (const a of scope.querySelectorAll('svg.art, .count, .bar')) {
    if (!shown(a)) continue;
    const r = a.getBoundingClientRect();
    if (!inside(r, panel, 1)) wrong.push(`drawing outside the panel at ${round(r)}`);
    if (a.matches('svg.art') && r.height < 90) wrong.push(`drawing only ${Math.round(r.height)}px high`);
    const art = { left: r.left, right: r.right, top: r.top, bottom: r.bottom };
    lines.forEach((l) => { if (!a.contains(l.e) && cross(art, l, 2)) wrong.push(`text over drawing: ${call(l.e)}`); });
    controls.forEach((c) => { if (cross(art, c, 2)) wrong.push(`control over drawing: ${call(c.e)}`); });
  }
  for (const e of [document.scrollingElement, ...scope.querySelectorAll('main, .cover, .scr, .prods')]) {
    if (getComputedStyle(e).display === 'contents' || e.clientHeight === 0) continue;
    if (e.scrollHeight > e.clientHeight + 2 || e.scrollWidth > e.clientWidth + 2) wrong.push(`more than fits in ${call(e).slice(0, 40)}: ${e.scrollWidth}x${e.scrollHeight} in ${e.clientWidth}x${e.clientHeight}`);
  }
  const count = document.querySelectorAll('*').length;
  if (count >= (staff ? 550 : 400)) wrong.push(`${count} elements`);
  return wrong;
};
