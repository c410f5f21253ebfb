"use strict";
// Replaces the part that changes by a fresh one. Without it the page loads itself anew.
const main = document.querySelector("main");
const PERIOD = 2000, PATIENCE = 8000;

function retitle() {
  const header = main.querySelector("header");
  if (header) document.title = header.dataset.title;
}

async function refresh() {
  try {
    const answer = await fetch("/now", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(answer.statusText);
    const text = await answer.text();
    const log = main.querySelector(".log");
    const scrolled = log ? log.scrollTop : 0;
    main.innerHTML = text;
    const fresh = main.querySelector(".log");
    if (fresh) fresh.scrollTop = scrolled;
    document.body.classList.remove("lost");
    retitle();
  } catch {
    document.body.classList.add("lost");
  }
  setTimeout(refresh, PERIOD);
}

retitle();
setTimeout(refresh, PERIOD);
