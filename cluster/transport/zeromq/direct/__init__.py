"""Direct connections: plain sockets beside ZeroMQ's, for messages that need no order.

Over ZeroMQ a message wakes three threads: the sender's and the receiver's I/O thread, and who waits for it. Over a direct
connection it wakes the one that waits.

    exchange     the direct connections of one endpoint
    opening      how one comes to be: an offer over the trusted link, a short-lived port, a secret
    connection   one of them: messages to bytes and back
    sealing      its encryption, beside a link that is encrypted
"""
