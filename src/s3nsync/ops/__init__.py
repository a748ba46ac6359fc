"""Looking after a deployment: `doctor` before it runs, `status` of one object, `failed` for what was buried."""
