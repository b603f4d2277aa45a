"""An HTTP/1.1 server for one ASGI 3 app: h11 on Trio.

Import from here; the modules inside are private. They use ``errors`` only:

- ``listeners``: binds sockets, and closes them in forked children; names in Host headers.
- ``server``: accepts connections, and stops.
- ``budget``: limits on the memory that all requests use together.
- ``limiter``: counts connections, and closes some to make room for new ones.
- ``connection``: the requests of one connection, and what the app tells the server.
- ``exchange``: one request and its response, the ASGI ``receive`` and ``send``.
- ``peer``: the bytes in and out.
- ``messages``: limits, request heads, and the responses that the server makes itself. Pure.

Rules that hold:

1. Every wait for a client has a limit (``Limits``): its first byte, a request head, a body, reading a
   response. A client that exceeds one gets a 408, or is dropped.
2. Connections, request heads and bodies are bounded, and at most one chunk per connection is read ahead.
   A request above a bound gets a 413 or 431, and one with too many short chunks a 400. Above the maximum
   number of connections, new ones wait in the kernel. All large bodies and responses are bounded together
   (``budget.InFlight``): a body waits before it is read, and before the app parses it (``reserve_values``);
   a response replaces others that are read slowly, or else is a 503. Neither loses an outcome: a runtime
   repeats requests that got a 503 or no response.
3. A client is unauthenticated until the app calls ``mark_authenticated`` for one of its requests. Until
   then its connection gets one response, ``Limits.keyless`` seconds, and shares half of the connections
   with all others of its kind, so that they cannot lock out authenticated clients. After the head,
   its request is parsed only if the app reads the body.
4. On a stop the listeners close, idle connections close at once, and requests in flight may finish within
   the grace; then they are cancelled. What only waits ends at once (``while_connected``).
5. A failure of the app is logged and answered with 500, without its text; it ends nothing else. No
   response of this server quotes the request, which may hold a key.

Not served: TLS, WebSocket (an upgrade request is served as a plain one), HTTP/2, ASGI lifespan.
"""

from exotrio._httpd.budget import MAX_VALUES as MAX_VALUES
from exotrio._httpd.connection import call_when_lost as call_when_lost
from exotrio._httpd.connection import is_crowded as is_crowded
from exotrio._httpd.connection import mark_authenticated as mark_authenticated
from exotrio._httpd.connection import reserve_values as reserve_values
from exotrio._httpd.connection import stopping_event as stopping_event
from exotrio._httpd.connection import while_connected as while_connected
from exotrio._httpd.exchange import App as App
from exotrio._httpd.limiter import ConnectionLimiter as ConnectionLimiter
from exotrio._httpd.listeners import LOOPBACK_HOSTS as LOOPBACK_HOSTS
from exotrio._httpd.listeners import host_name as host_name
from exotrio._httpd.listeners import loopback_names as loopback_names
from exotrio._httpd.listeners import open_listeners as open_listeners
from exotrio._httpd.listeners import urls as urls
from exotrio._httpd.messages import Limits as Limits
from exotrio._httpd.peer import ClientDisconnected as ClientDisconnected
from exotrio._httpd.server import serve_http as serve_http
