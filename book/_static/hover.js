/* Previews at links: a mouse that rests, the keyboard's focus, or a first tap shows one; Escape hides it. */
(function () {
  "use strict";
  document.addEventListener("DOMContentLoaded", () => {
    const [previews, tippy] = [window.lotpermPreviews, window.tippy];
    const article = document.querySelector("article");
    if (!previews || !tippy || !article) return;

    const root = new URL(document.documentElement.dataset.content_root || "./", location.href);

    /* The preview of what a link leads to, if there is one. */
    function preview(link) {
      const url = new URL(link.href);
      if (url.protocol !== root.protocol || url.host !== root.host || !url.hash) return undefined;
      const page = url.pathname.slice(root.pathname.length);
      return previews[decodeURIComponent(page + url.hash)];
    }

    const quiet = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    for (const link of article.querySelectorAll("a.reference.internal[href*='#']")) {
      const content = preview(link);
      if (!content) continue;
      // The reference itself is shown: the browser's own tooltip would stand over it.
      if (link.title) link.removeAttribute("title");
      tippy(link, {
        content, allowHTML: true, interactive: true, appendTo: () => document.body, delay: [250, 80],
        duration: quiet ? 0 : 150, maxWidth: 360, theme: "lotperm", aria: { content: "describedby", expanded: false },
      });
      // On a touch screen the first tap shows, the second one follows.
      let open = false;
      link.addEventListener("pointerdown", () => { open = link._tippy.state.isVisible; });
      link.addEventListener("click", (event) => {
        if (event.pointerType !== "touch" || open) return;
        event.preventDefault();
        link._tippy.show();
      });
      link.dataset.preview = "";
    }
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") tippy.hideAll();
    });
  });
})();
