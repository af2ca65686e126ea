"""What a person reads of a build that is refused."""

from agent.build import layer_build


def test_a_cache_that_is_too_large_says_so_in_the_units_of_its_limit() -> None:
    error = layer_build.CacheTooLarge(21 * 2**30 + 2**29, 20 * 2**30)

    assert str(error).startswith(
        "the images need more in the store than the 20.0 GiB that the cache may have"
        " (21.5 GiB so far): raise its size (imageCacheSize)"
    )
