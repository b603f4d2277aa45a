// Keeps a page current: the server says which fragments changed, and they are asked for again.
// Everything works without this script; a reload then shows what is new.
"use strict";
(() => {
  const LEAST_MS = 250; // between two requests: at most four a second
  const POLL_MS = 2000; // without events
  const AGAIN_MS = 30000; // until events are tried again after they were refused

  const address = document.body.dataset.live;
  const line = document.getElementById("live");
  const button = document.getElementById("pause");
  if (!address || !line || !button) return;

  let source = null;
  let polling = null;
  let again = null;
  let timer = null;
  let paused = false;
  let asking = false;
  let askedAt = 0;
  let ended = false;
  const wanted = new Set();

  const fragments = () => [...document.querySelectorAll("[data-fragment]")];
  const say = (text, state = "live") => {
    line.dataset.state = state;
    if (line.textContent !== text) line.textContent = text;
  };

  // -- asking for fragments

  function want(names) {
    for (const name of names) wanted.add(name);
    if (timer === null && !asking) {
      timer = setTimeout(ask, Math.max(0, askedAt + LEAST_MS - Date.now()));
    }
  }

  async function ask() {
    timer = null;
    if (paused || ended || document.hidden || wanted.size === 0) return;
    asking = true;
    const names = [...wanted].join(" ");
    wanted.clear();
    try {
      const answer = await fetch(location.pathname + location.search, {
        headers: { "X-Fragments": names },
        cache: "no-store",
      });
      if (answer.status === 401) return location.reload();
      if (answer.status === 404) return end("Gone");
      if (answer.ok) show(await answer.text());
    } catch {
      say("Not reached", "lost");
    } finally {
      asking = false;
      askedAt = Date.now();
      if (wanted.size && !ended) want([]);
    }
  }

  function show(html) {
    const arrived = new DOMParser().parseFromString(html, "text/html");
    for (const fresh of arrived.querySelectorAll("[data-fragment]")) {
      const name = fresh.dataset.fragment;
      const old = document.querySelector(`[data-fragment="${CSS.escape(name)}"]`);
      if (old) replace(old, fresh, name);
    }
    prepare();
  }

  function replace(old, fresh, name) {
    if (old.innerHTML === fresh.innerHTML) return;
    if (isInUse(old)) {
      setTimeout(() => want([name]), POLL_MS);
      return;
    }
    const opened = [...old.querySelectorAll("details[open][id]")].map((each) => each.id);
    const ticked = new Set([...old.querySelectorAll("input:checked")].map((each) => each.value));
    const focused = old.contains(document.activeElement) ? document.activeElement : null;
    const before = announced(old);
    old.replaceChildren(...fresh.childNodes);
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
    for (const box of old.querySelectorAll("input[type=checkbox]")) box.checked = ticked.has(box.value);
    if (focused) {
      const href = focused.getAttribute("href");
      const same =
        (focused.id && document.getElementById(focused.id)) ||
        (href && old.querySelector(`a[href="${CSS.escape(href)}"]`));
      if (same) same.focus({ preventScroll: true });
    }
    if (before !== undefined && before !== announced(old)) say(announced(old));
  }

  const announced = (part) => part.querySelector("[data-announce]")?.dataset.announce;

  // What somebody types or marks is not taken away.
  function isInUse(part) {
    const active = document.activeElement;
    const types = active !== null && active.matches("input:not([type=checkbox]), select, textarea");
    if (types && part.contains(active)) return true;
    const marked = getSelection();
    return marked !== null && !marked.isCollapsed && part.contains(marked.anchorNode);
  }

  // -- hearing of changes

  function connect() {
    disconnect();
    if (paused || ended || document.hidden) return;
    if (!window.EventSource) return poll();
    source = new EventSource(address);
    source.addEventListener("open", () => {
      stopPolling();
      say("Live");
    });
    source.addEventListener("changed", (event) => {
      if (line.textContent === "Not reached") say("Live");
      want(event.data.split(" "));
    });
    source.addEventListener("error", () => {
      poll();
      if (source && source.readyState === EventSource.CLOSED) again = setTimeout(connect, AGAIN_MS);
    });
  }

  function disconnect() {
    if (source) source.close();
    source = null;
    clearTimeout(again);
    stopPolling();
  }

  function poll() {
    if (polling !== null || paused || ended) return;
    say("Every 2 s", "polling");
    const all = () => want(fragments().map((each) => each.dataset.fragment));
    polling = setInterval(all, POLL_MS);
    all();
  }

  function stopPolling() {
    clearInterval(polling);
    polling = null;
  }

  function end(text) {
    ended = true;
    disconnect();
    button.hidden = true;
    say(text, "lost");
  }

  // -- the rest of the page

  function prepare() {
    for (const box of document.querySelectorAll("input[data-all]")) {
      box.hidden = false;
      box.onchange = () => {
        for (const each of document.querySelectorAll(`input[name="${box.dataset.all}"]`)) each.checked = box.checked;
      };
    }
  }

  button.hidden = false;
  button.addEventListener("click", () => {
    paused = !paused;
    button.textContent = paused ? "Resume" : "Pause";
    if (paused) {
      disconnect();
      say("Paused", "paused");
    } else {
      say("");
      connect();
    }
  });
  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
  addEventListener("pagehide", disconnect);
  addEventListener("pageshow", (event) => event.persisted && connect());
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const each of document.querySelectorAll("details.menu[open], details.confirm[open]")) {
      if (each.contains(document.activeElement)) each.querySelector("summary").focus();
      each.removeAttribute("open");
    }
  });
  prepare();
  if (fragments().length) connect();
  else button.hidden = true;
})();
