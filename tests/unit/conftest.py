"""Property tests have no deadline an example: machines that test are often busy."""

import hypothesis

hypothesis.settings.register_profile("uimgacc", deadline=None)
hypothesis.settings.load_profile("uimgacc")
