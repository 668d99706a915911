"""The jobs behind the commands: the start, work and result of each. `nacdeploy.api` names them."""
