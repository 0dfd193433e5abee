// Reload after data-seconds, but never under somebody's hands: not while a field of a form is focused or filled anew.
(() => {
  const seconds = Number(document.currentScript.dataset.seconds);
  const busy = () => [...document.querySelectorAll("input")].some(
    (field) => field === document.activeElement || field.value !== field.defaultValue);
  setInterval(() => { if (!busy() && !document.hidden) location.reload(); }, seconds * 1000);
})();
