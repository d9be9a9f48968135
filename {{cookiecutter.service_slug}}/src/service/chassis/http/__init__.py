"""The web: the Flask application, its middleware, typed routes, problems and the API's document."""
