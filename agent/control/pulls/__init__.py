"""What pulls cost the fleet, image by image, and which caches would spare them."""
