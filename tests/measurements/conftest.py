"""This file puts its folder on the import path of the tests here and below, for the helpers beside it."""
