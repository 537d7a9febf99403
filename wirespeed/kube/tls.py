"""TLS to the API server: its certificate's chain, name and dates are verified as Go's clients verify them."""

from __future__ import annotations

import ssl
from typing import Any

from urllib3.util.ssl_ import create_urllib3_context


def context(configuration: Any) -> ssl.SSLContext:
    """Create a TLS context for the client library's configuration, with its certificates loaded.

    Python 3.13 and later verify in X.509 strict mode by default. It refuses the CA certificates of EKS, of MicroK8s
    and of `openssl req -x509`, as they lack extensions that RFC 5280 requires. kubectl and the kubelet do not
    require them. As in Go, a chain may end at any trusted certificate, not only at a self-signed one, and the name
    is looked for in subjectAltName only.
    Raises OSError (ssl.SSLError is one) and ValueError for certificates or keys that cannot be read.
    """
    made = create_urllib3_context(
        cert_reqs=ssl.CERT_REQUIRED if configuration.verify_ssl else ssl.CERT_NONE,
        verify_flags=ssl.VERIFY_X509_PARTIAL_CHAIN,
    )
    made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    file, data = configuration.ssl_ca_cert, configuration.ca_cert_data
    if file or data:
        try:
            made.load_verify_locations(cafile=file, cadata=data)
        except ssl.SSLError as error:
            raise ValueError(f"certificate authority {file or 'data'}: {error}") from error
    else:
        made.load_default_certs()
    if configuration.cert_file:
        try:
            made.load_cert_chain(configuration.cert_file, configuration.key_file, _no_password)
        except ssl.SSLError as error:
            raise ValueError(f"client certificate {configuration.cert_file}: {error}") from error
    return made


def _no_password() -> str:
    """Refuse a key with a password: OpenSSL would prompt for it at the terminal."""
    raise ValueError("expected a client key without a password")
