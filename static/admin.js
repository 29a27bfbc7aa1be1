// Pages work without this: it only adds a button that copies a secret which is shown once.
for (const box of document.querySelectorAll("[data-copy]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    const source = document.getElementById(box.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.value ?? source.textContent);
      button.textContent = "Copied";
    } catch {
      source.focus();
      source.select?.();
      button.textContent = "Press Ctrl-C";
    }
  });
  box.append(button);
}
