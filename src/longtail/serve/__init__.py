"""From a run folder to answers: bundle, runtime without torch, HTTP."""
