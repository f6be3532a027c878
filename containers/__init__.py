"""How Sitestream runs somewhere: sites, images, profiles, deployment, the `pipeline` command."""
