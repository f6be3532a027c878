"""What the steps of a plan do: one module for each operator, all behind `flow.Operator`."""
