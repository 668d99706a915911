"""The jobs behind the commands: what each starts from, does and leaves behind. `nacdeploy.api` names them."""
