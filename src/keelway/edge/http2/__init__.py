"""HTTP/2 on asyncio, RFC 9113: frames, header blocks, flow control, limits. Who answers the requests, it is told."""
