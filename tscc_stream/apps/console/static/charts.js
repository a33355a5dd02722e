// Bokeh's charts of a page: {element id: json_item} from an address. bokeh.min.js is a classic script with `defer`.

export async function drawCharts(address) {
  try {
    const answer = await fetch(address);
    const charts = await answer.json();
    if (!answer.ok) throw new Error(charts.error || answer.statusText);
    for (const id of ["spectrum", "hours"]) {
      document.getElementById(id).replaceChildren();
      await window.Bokeh.embed.embed_item(charts[id]);
    }
    document.body.dataset.drawn = "yes";
  } catch (error) {
    document.getElementById("spectrum").textContent = `Charts cannot be drawn: ${error.message}`;
  }
}
