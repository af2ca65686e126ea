"""Which images may be built: a policy of signatures, verified by cosign.

What is signed and by whom is cosign's judgement; here is which images need which signature,
and the way by which cosign reads a registry. The builder opens it, nothing else imports it.
"""
