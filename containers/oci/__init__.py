"""Container images assembled without an engine: layers and a configuration, the same bytes for the same inputs.

A layer is a tar of files without times and without owners but those given, compressed, kept in the cache by its digest. An image
is its configuration, which names its layers; the hash of that is the image's id, the same wherever it is made. Engines and
registries are given what they lack of it. Formats: OCI image specification 1.1.
"""

from containers.oci.image import ARCHITECTURES, Base, Image, Layer, Settings, extended
from containers.oci.layers import LayerStore

__all__ = ["ARCHITECTURES", "Base", "Image", "Layer", "LayerStore", "Settings", "extended"]
