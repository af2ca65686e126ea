"""The operations of the agent's worker that keeps local copies; see agent.node.near."""

from agent.local import copying, disk, layer_survey
from agent.mounts.devices import layer_mounting

OPERATIONS = {
    **copying.OPERATIONS,
    **disk.OPERATIONS,
    **layer_survey.OPERATIONS,
    "switch_layer": layer_mounting.switch_layer,
}
