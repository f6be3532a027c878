"""A site as Kubernetes manifests: the decisions are those for Docker (`containers.desired`, `containers.profiles`), put in the
words of another engine. Nothing is contacted, nothing secret is read.
"""
