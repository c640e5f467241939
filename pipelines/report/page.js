// Draws the figures of the page in the colours of its theme, and again when the theme changes.
"use strict";
(() => {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  function themed(figure) {
    const axis = { gridcolor: colour("line"), linecolor: colour("line"), zerolinecolor: colour("line"), tickcolor: colour("line") };
    const layout = {
      ...figure.layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 13, color: colour("text") },
      hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("text") } },
    };
    for (const name of ["xaxis", "yaxis"]) {
      if (figure.layout[name]) layout[name] = { ...axis, automargin: true, ...figure.layout[name] };
    }
    const data = figure.data.map((trace) => {
      if (trace.type === "bar") return { ...trace, marker: { color: colour(trace.meta) } };
      if (trace.type === "scatter") return { ...trace, fillcolor: `${colour(trace.meta)}80`, line: { ...trace.line, width: 1, color: colour(trace.meta) } };
      if (trace.type === "heatmap") {
        const ends = trace.meta === "rest" ? ["rest", "rest"] : [`${trace.meta}-few`, `${trace.meta}-many`];
        return { ...trace, colorscale: [[0, colour(ends[0])], [1, colour(ends[1])]] };
      }
      const scale = [[0, colour("less")], [0.5, colour("same")], [1, colour("more")]];
      return {
        ...trace,
        marker: { ...trace.marker, colorscale: scale, line: { width: 1, color: colour("card") } },
        root: { color: colour("same") },
        pathbar: { visible: true, thickness: 24 },
      };
    });
    return { data, layout };
  }

  const figures = [...document.querySelectorAll("script[data-figure]")].map((script) => ({
    place: document.getElementById(script.dataset.figure),
    figure: JSON.parse(script.textContent),
  }));
  const config = { responsive: true, displayModeBar: false };

  function draw() {
    for (const { place, figure } of figures) {
      const { data, layout } = themed(figure);
      Plotly.react(place, data, layout, config);
    }
  }
  draw();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
