"use strict";

/* Copy buttons, help for the chosen handler, and pages that keep themselves up to date. Everything
   works without this file; it only saves clicks. */

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-jobs-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(button.dataset.jobsCopy);
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1200);
});

document.addEventListener("DOMContentLoaded", () => {
  const helps = document.querySelector("[data-jobs-helps]");
  if (helps) {
    const chosen = document.getElementById(helps.dataset.jobsHelps);
    const show = () => helps.querySelectorAll("[data-jobs-help]").forEach((section) => {
      section.hidden = section.dataset.jobsHelp !== chosen.value;
    });
    chosen.addEventListener("change", show);
    show();
  }
  keepFresh();
});

/* Fetches the same page again and replaces its live part, unless somebody reads or selects there. */
function keepFresh() {
  const region = document.querySelector("[data-jobs-live]");
  const seconds = region ? Number(region.dataset.jobsLive) : 0;
  if (!seconds) return;
  setTimeout(async () => {
    if (document.visibilityState === "visible" && !isBeingUsed(region)) await refresh(region);
    keepFresh();
  }, seconds * 1000);
}

function isBeingUsed(region) {
  const selection = document.getSelection();
  const selects = selection && !selection.isCollapsed && region.contains(selection.anchorNode);
  return selects || region.contains(document.activeElement);
}

async function refresh(region) {
  try {
    const answer = await fetch(location.href, { credentials: "same-origin", redirect: "error" });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.querySelector("[data-jobs-live]");
    if (fresh) region.replaceWith(document.adoptNode(fresh));
  } catch {
    /* The next round tries again. */
  }
}
