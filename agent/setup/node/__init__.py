"""Node set-up: writes, restarts, keeps watch, undoes."""
