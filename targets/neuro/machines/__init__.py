"""The machine descriptions that come with sdc, one YAML file each."""
