"""Plans for people: Markdown tables and a picture."""

from collections.abc import Mapping, Sequence
from typing import Any

from bigjax.core.progress import size

FORMULA = 'MFU = model FLOPs / (devices x peak FLOP/s x seconds of a step)'


def markdown(rows: Sequence[Sequence[str]]) -> str:
  """Return rows, the first of them the heading, as a Markdown table."""
  lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
  return '\n'.join([lines[0], '|' + '---|' * len(rows[0]), *lines[1:]])


def overview(plans: Sequence[Mapping[str, Any]]) -> str:
  """Return a row per slice."""
  rows = [
    (
      'slice',
      'batch',
      'per device',
      'usable',
      'ms per step',
      'compute',
      'collectives exposed',
      'MFU',
      'images/s',
      'hours',
      'to 150k',
      'chip-hours',
    )
  ]
  for found in plans:
    row = [found['slice'], str(found['batch_size']), size(found['peak_bytes'])]
    row.append(size(found['usable_bytes']) + ('' if found['fits'] else ': does not fit'))
    if 'step_seconds' in found:
      row += [
        f'{found["step_seconds"] * 1e3:.1f}',
        f'{found["compute_seconds"] * 1e3:.1f}',
        f'{found["exposed_collective_seconds"] * 1e3:.1f}',
        f'{found["mfu"]:.2f}',
        f'{found["images_per_second"]:,.0f}',
        f'{found["hours"]:.1f}',
        f'{found["hours_150k"]:.1f}',
        f'{found["chip_hours"]:,.0f}',
      ]
    rows.append((*row, *[''] * (len(rows[0]) - len(row))))
  return markdown(rows)


def details(found: Mapping[str, Any]) -> str:
  """Return where a slice's step goes: parts, collectives, the dearest instructions."""
  if 'step_seconds' not in found:
    short = found['peak_bytes'] - found['usable_bytes']
    return f'{found["slice"]}: {size(short)} per device are missing; try --fit {found["slice"]}'
  step = found['step_seconds']
  share = lambda seconds: (f'{seconds * 1e3:.2f}', f'{seconds / step:.1%}')
  rows = [('part', 'ms', 'share')]
  rows += [(name, *share(seconds)) for name, seconds in found['parts'].items()]
  rows.append(('collectives, exposed', *share(found['exposed_collective_seconds'])))
  wires = [('collective', 'per step', 'MB per device', 'ms')]
  wires += [
    (kind, str(all_['count']), f'{all_["bytes"] / 1e6:,.1f}', f'{all_["seconds"] * 1e3:.2f}')
    for kind, all_ in found['collectives'].items()
  ]
  dear = [('dearest instructions', 'ms', 'share', 'times', 'result')]
  dear += [
    (line['op_name'][-70:], *share(line['seconds']), str(line['times']), line['result'][:48])
    for line in found['dearest']
  ]
  options = ', '.join(f'{key}={value}' for key, value in found['compiler_options'].items())
  lines = [
    f'\n{found["slice"]} ({found["topology"]}, {found["devices"]} devices), compiled in '
    f'{found["compile_seconds"]:.0f} s{f" with {options}" if options else ""}; '
    f'program {found["digest"]}',
    f'per device and step: {found["executed_flops"] / 1e12:.3g} TFLOP executed, '
    f'{found["model_flops"] / found["devices"] / 1e12:.3g} TFLOP of the model, '
    f'{found["hbm_bytes"] / 1e9:.3g} GB to and from memory, {found["cycles"] / 1e6:.4g} Mcycles; '
    f'{size(found["argument_bytes"])} of arguments, {size(found["temporary_bytes"])} temporary',
    f'{FORMULA} = {found["model_flops"]:.3g} / ({found["devices"]} x {found["peak_flops"]:.3g} x '
    f'{step:.4f}) = {found["mfu"]:.2f}',
    markdown(rows),
    markdown(wires),
    markdown(dear),
    f'{found["unestimated_share"]:.2%} of the time is of instructions without an estimate: their '
    'bytes over the bandwidth of the memory',
  ]
  return '\n\n'.join(lines)


def on_the_wire(plans: Sequence[Mapping[str, Any]]) -> str:
  """Return the bytes of what devices add up or put together per step, by slice and kind."""
  rows = [('slice', 'collective', 'per step', 'MB per device')]
  for found in plans:
    for kind, total in found.get('collectives', {}).items():
      rows.append((found['slice'], kind, str(total['count']), f'{total["bytes"] / 1e6:,.1f}'))
  return markdown(rows)


def bars(plans: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
  """Return {slice and batch: {part: ms}}."""
  return {
    f'{found["slice"]}\nbatch {found["batch_size"]}': {
      **{name: seconds * 1e3 for name, seconds in found['parts'].items()},
      'collectives, exposed': found['exposed_collective_seconds'] * 1e3,
    }
    for found in plans
  }
