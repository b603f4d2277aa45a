"""The typed fields of ``Inputs`` and ``Outputs``: the state manager keeps texts, nodes have values.

- ``codecs``: one value to text and back, for each type;
- ``allowed``: which types of fields can be restored from a text;
- ``models``: a model to texts and back;
- ``declared``: which values an input accepts, by the JSON schema that it is registered with;
- ``fit``: whether the texts of one type are texts of another.

Rule: no message contains the value of a field, which may be secret. Only to who sent it, before a run starts,
its beginning is shown: ``declared.quoted`` masks the secrets that are known.
"""
