// The bench: it asks the simulated hardware to do things and scales the screen to fit.
"use strict";
const say = document.getElementById("say");
async function ask(what, arg) {
  const r = await fetch("/do", {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({do: what, arg: arg || ""})});
  say.textContent = r.ok ? "" : await r.text();
}
async function look() {
  try {
    const s = await (await fetch("/state")).json();
    document.getElementById("fallen").textContent = s.fallen;
    document.getElementById("left").textContent = s.left;
    document.getElementById("door").setAttribute("aria-pressed", s.door);
    document.getElementById("reader").setAttribute("aria-pressed", s.unplugged);
    for (const b of document.querySelectorAll("[data-do=lay]")) b.setAttribute("aria-pressed", b.dataset.arg === s.card);
  } catch { say.textContent = "…"; }
  setTimeout(look, 1000);
}
let size = "1080x1920";
function fit() {
  const [w, h] = size.split("x").map(Number), main = document.querySelector("main"), frame = document.getElementById("screen"), hold = document.getElementById("hold");
  const k = Math.min((main.clientWidth - 52) / w, (main.clientHeight - 52) / h, 1);
  frame.style.width = w + "px"; frame.style.height = h + "px"; frame.style.transform = `scale(${k})`;
  hold.style.width = Math.floor(w * k) + "px"; hold.style.height = Math.floor(h * k) + "px";
}
document.addEventListener("click", (e) => {
  const b = e.target.closest("button");
  if (!b) return;
  if (b.dataset.size) {
    size = b.dataset.size;
    for (const o of document.querySelectorAll("[data-size]")) o.setAttribute("aria-pressed", o === b);
    fit();
  } else ask(b.dataset.do, b.dataset.arg);
});
addEventListener("resize", fit);
fit(); look();
