from segue.cli.main import app

app()
