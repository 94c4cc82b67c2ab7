// A setting as PyTorch code, and as the command that asks for its plan.

const PAD_MODULES = {
  zeros: "ZeroPad2d",
  reflect: "ReflectionPad2d",
  replicate: "ReplicationPad2d",
  circular: "CircularPad2d",
};

function pythonPair([a, b]) {
  return a === b ? String(a) : `(${a}, ${b})`;
}

function layerArguments(s, padding, mode) {
  const parts = [s.C, s.K, pythonPair([s.R, s.S])];
  if (s.stride.some(step => step !== 1)) parts.push(`stride=${pythonPair(s.stride)}`);
  if (padding !== "0") parts.push(`padding=${padding}`);
  if (s.dilation.some(step => step !== 1)) parts.push(`dilation=${pythonPair(s.dilation)}`);
  if (s.groups !== 1) parts.push(`groups=${s.groups}`);
  if (mode !== "zeros") parts.push(`padding_mode="${mode}"`);
  return parts.join(", ");
}

function writtenPadding(s) {
  const [left, right, top, bottom] = s.padding;
  if (s.same) return '"same"';
  return isSymmetric(s) ? pythonPair([top, left]) : `(${left}, ${right}, ${top}, ${bottom})`;
}

function torchCode(s) {
  const image = `image = torch.randn(1, ${s.C}, ${s.H}, ${s.W})\nprint(layer(image).shape)`;
  const head = "import torch\nfrom torch import nn\n\n";
  if (s.same || isSymmetric(s)) {
    return `${head}layer = nn.Conv2d(${layerArguments(s, writtenPadding(s), s.mode)})\n${image}`;
  }
  // nn.Conv2d pads by the same on opposite sides; another module has to do the rest.
  return `${head}layer = nn.Sequential(\n    nn.${PAD_MODULES[s.mode]}((${s.padding.join(", ")})),` +
    `\n    nn.Conv2d(${layerArguments(s, "0", "zeros")}),\n)\n${image}`;
}

function convextCode(s) {
  return "import torch\nfrom convext import ConvExt2d\n\n" +
    `layer = ConvExt2d(${layerArguments(s, writtenPadding(s), s.mode)})\n` +
    `image = torch.randn(1, ${s.C}, ${s.H}, ${s.W})\nprint(layer(image).shape)`;
}

function traceCommand(s) {
  const pair = ([a, b]) => (a === b ? String(a) : `${a},${b}`);
  const [left, right, top, bottom] = s.padding;
  const padding = s.same ? "same" : isSymmetric(s) ? pair([top, left]) : [left, right, top, bottom];
  return `convext trace --in ${s.H},${s.W} --channels ${s.C},${s.K} --kernel ${s.R},${s.S} ` +
    `--stride ${pair(s.stride)} --padding=${padding} --dilation ${pair(s.dilation)} ` +
    `--groups ${s.groups} --padding-mode ${s.mode}`;
}
