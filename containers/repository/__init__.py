"""The repository from which sites take images and signed documents: an OCI registry, or one file for sites without a network.

What lies in a repository is trusted for nothing: digests are checked, and documents count only with a `statement` signed by a
key that the site's trust store knows.
"""
