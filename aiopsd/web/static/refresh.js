// Reload after data-seconds, but never under somebody's hands: not while a field of a form is focused or filled anew.
(() => {
  const seconds = Number(document.currentScript.dataset.seconds);
  const changed = (field) => field.tagName === "SELECT" ? field.selectedIndex > 0
    : field.type === "checkbox" ? field.checked : field.value !== field.defaultValue;
  const busy = () => [...document.querySelectorAll("input, select")].some(
    (field) => field === document.activeElement || changed(field));
  setInterval(() => { if (!busy() && !document.hidden) location.reload(); }, seconds * 1000);
})();
