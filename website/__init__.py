"""How docs/ becomes a site: what mkdocs.yml cannot say, and the reference written from the code.

The package lies beside docs/ and not in it, so that docs/ holds pages and nothing else. It is no
part of hptransfer, which never imports it.
"""
