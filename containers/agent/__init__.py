"""Sites that pull: an agent at the site fetches what is signed for it, checks it, and brings the site to it.

On the operator's machine `publish` writes what a site should run into the repository and `enrol` sets the agent up; at the site
`turn` does what `decide` says. Both sides know the `document` and the `status`.
"""
