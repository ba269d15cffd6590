// The mouse draws boxes on a frame: the browser's side of BoxWidget in display.py.
function render({ model, el }) {
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  const picture = new Image();
  canvas.style = "max-width: 100%; cursor: crosshair; touch-action: none";
  el.append(canvas, "Drag a box around the object. Hold Shift to add a box for one more object.");

  let corner = null;  // where the drag began, in frame pixels
  const place = (event) => {
    const shown = canvas.getBoundingClientRect();
    const x = (event.clientX - shown.left) * canvas.width / shown.width;
    const y = (event.clientY - shown.top) * canvas.height / shown.height;
    return [Math.min(Math.max(x, 0), canvas.width), Math.min(Math.max(y, 0), canvas.height)];
  };
  const box = ([x, y]) => [
    Math.min(x, corner[0]), Math.min(y, corner[1]), Math.abs(x - corner[0]), Math.abs(y - corner[1])
  ];
  const draw = (boxes) => {
    pen.drawImage(picture, 0, 0);
    pen.lineWidth = Math.max(2, canvas.width / 300);
    boxes.forEach((each, k) => {
      const colours = model.get("colours");
      pen.strokeStyle = colours[k % colours.length];
      pen.strokeRect(...each);
    });
  };
  const kept = (event) => event.shiftKey ? model.get("boxes") : [];

  canvas.onpointerdown = (event) => {
    corner = place(event);
    canvas.setPointerCapture(event.pointerId);
  };
  canvas.onpointermove = (event) => corner && draw([...kept(event), box(place(event))]);
  canvas.onpointerup = (event) => {
    const [x, y, width, height] = box(place(event));
    corner = null;
    if (Math.min(width, height) >= 2) {
      // corners are rounded, so that a box that ends at the edge stays in the picture
      const left = Math.round(x), top = Math.round(y);
      const size = [Math.round(x + width) - left, Math.round(y + height) - top];
      model.set("boxes", [...kept(event), [left, top, ...size]]);
      model.save_changes();
    }
    draw(model.get("boxes"));
  };
  model.on("change:boxes", () => draw(model.get("boxes")));
  picture.onload = () => {
    [canvas.width, canvas.height] = [picture.width, picture.height];
    draw(model.get("boxes"));
  };
  picture.src = URL.createObjectURL(new Blob([model.get("picture")], { type: "image/jpeg" }));
}
export default { render };
