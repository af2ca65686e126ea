"""asyncio and operating system helpers without domain; they could be a library.

Nothing here knows what an image or a layer is. All other packages may import it.
"""
