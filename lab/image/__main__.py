"""`python -m lab.image`: make the container image as an OCI archive."""

from lab.image import oci

oci.main()
